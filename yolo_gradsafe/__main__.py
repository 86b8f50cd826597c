"""``python -m yolo_gradsafe`` is the ``gradsafe`` command."""

from yolo_gradsafe.cli import main

if __name__ == "__main__":
    main()
