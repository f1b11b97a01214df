"""The words on channels: subscribing to them, and speaking on them."""
