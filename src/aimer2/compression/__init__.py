"""What makes an update smaller on its way up, and the model on its way down."""
