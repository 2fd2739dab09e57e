"""What a change of a layer costs in loss, one method a file."""
