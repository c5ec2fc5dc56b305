"""The confinement of the process that computes on patients' data: no network, only its own files, bounded memory and time."""

from aimer2.site.sandbox.capabilities import Capabilities, capabilities
from aimer2.site.sandbox.confine import Confinement, Enforced, confine
from aimer2.site.sandbox.limits import die_with_parent
from aimer2.site.sandbox.trees import python_trees

__all__ = ["Capabilities", "Confinement", "Enforced", "capabilities", "confine", "die_with_parent", "python_trees"]
