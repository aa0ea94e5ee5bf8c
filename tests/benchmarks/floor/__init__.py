"""What any package of operators has at the least."""
