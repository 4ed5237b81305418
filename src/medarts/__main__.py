"""``python -m medarts`` is the command ``medarts``."""

from medarts.cli import main

if __name__ == "__main__":
    main()
