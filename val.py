import sys

from yolorep.cli import main

if __name__ == "__main__":
    sys.exit(main(["val", *sys.argv[1:]]))
