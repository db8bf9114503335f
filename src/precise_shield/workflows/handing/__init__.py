"""Hand a result on: to disk, to the hub, to other tools."""
