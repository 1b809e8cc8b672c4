import sys

from yolorep.cli import main

if __name__ == "__main__":
    sys.exit(main(["detect", *sys.argv[1:]]))
