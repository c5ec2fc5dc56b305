"""The model repository as its users hold it: versions with their records, checked offline, compared, described, handed on."""
