"""Every change of the database since the first version, one file each; never edited afterwards."""
