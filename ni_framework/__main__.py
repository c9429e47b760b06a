"""`python -m ni_framework` is `ni`."""

from ni_framework.cli import main

if __name__ == "__main__":
    main()
