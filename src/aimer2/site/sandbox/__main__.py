"""Print as JSON what this machine can enforce on a worker (`aimer2 site doctor` asks this way)."""

from aimer2.site.sandbox.capabilities import main

main()
