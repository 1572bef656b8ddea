import sys

WORD = "word"
if __name__ == "__main__":
    from . import part

    print(part.WORD, __name__, sys.argv[1:])
    sys.exit(3)
