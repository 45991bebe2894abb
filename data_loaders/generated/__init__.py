"""Videos that are generated: moving digits and walks through procedural mazes."""
