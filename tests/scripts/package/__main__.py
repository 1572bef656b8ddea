import sys

from package import part

print(__name__, __package__, __spec__.name, part.WORD, sys.argv[1:])
