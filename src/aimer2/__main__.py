"""`python -m aimer2`: the `aimer2` command."""

from aimer2.cli.main import main

if __name__ == "__main__":
    main()
