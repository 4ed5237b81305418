"""The command ``medarts``, which is also ``python -m medarts``."""

import sys


def main() -> None:
    """Runs a command; Ctrl-C while its modules are imported ends it as it does later."""
    try:
        from medarts.cli import main as run

        run()
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
