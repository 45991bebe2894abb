"""Evaluation of a trained model: predictions of held-out clips, scores, pictures, a report."""
