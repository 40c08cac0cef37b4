"""``python -m tepdist`` is the `tepdist` command."""

from tepdist.cli.main import main

if __name__ == "__main__":
    main()
