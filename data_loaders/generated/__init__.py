"""Generated videos: moving digits and walks through procedural mazes."""
