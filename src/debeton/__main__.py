"""The command `debeton` as `python -m debeton`: what torchrun starts, as in `torchrun -m debeton train ...`."""

from debeton.commands.dispatch import run

if __name__ == "__main__":
    run()
