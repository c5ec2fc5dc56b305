"""The life of a study: checked, conducted by the coordinator, performed by the sites."""
