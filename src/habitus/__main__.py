"""`python -m habitus`, and `torchrun … -m habitus` for training by several processes."""

from habitus.cli import main

if __name__ == "__main__":
    main()
