"""What a frozen or fine-tuned encoder is worth: one evaluation a file."""
