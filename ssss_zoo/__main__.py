"""`python -m ssss_zoo`, the same as `ssss`."""

from ssss_zoo.commands.cli import main

if __name__ == "__main__":
    main()
