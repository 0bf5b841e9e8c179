"""What happens to a frame between source and sink, and the threads in which it happens."""
