"""What somebody with the coordinator's view could find out from this hospital's part in a study: attacked here, before anybody approves it."""
