"""Video files: decoding, frame size and rate, arrays, folders of videos."""
