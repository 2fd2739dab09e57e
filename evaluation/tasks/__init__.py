"""Task accuracy, and accuracy per watt and per joule."""
