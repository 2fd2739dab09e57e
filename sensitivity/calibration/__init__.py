"""Text, sequences, and what enters and leaves every block of the model on them."""
