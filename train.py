import sys

from yolorep.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
