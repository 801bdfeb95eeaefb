"""`python -m r3po`: the same as the command `r3po`."""

from r3po.cli.app import main

if __name__ == "__main__":
    main()
