"""The built-in sets `demo` and `demo-source`: little creatures, drawn by the program, with masks.

`demo` has twelve fine-grained classes; in its training part the scenery goes with the class (nine
times of ten), in its test part it does not. So a network that looks at the background instead of
the creature is found out. `demo-source` has 48 other kinds in any scenery: on it the source model
learns to look at creatures.
"""

from gtacli.data.demo.readers import Demo, DemoSource

__all__ = ["Demo", "DemoSource"]
