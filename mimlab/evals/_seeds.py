"""What an interrupted evaluation has finished, seed by seed: evals/<name>.part beside the result, gone when that is there."""

import numpy as np

from mimlab import files, strict
from mimlab.data.cache import digest
from mimlab.errors import Refused
from mimlab.run import write


class Seeds:
    """Results by seed and start, kept in `path` while the same evaluation, by its settings `about`, is unfinished."""

    def __init__(self, path, about):
        self.path, self.key, self.found = path, digest(about), {}
        try:
            before = files.load(path)
        except (OSError, Refused):
            return
        if before.get("key") == self.key and isinstance(before.get("found"), dict):
            self.found = before["found"]

    def get(self, seed, start):
        """The dict that an evaluation returned, or None."""
        found = self.found.get(f"{seed} {start}")
        return None if found is None else found | {"hits": np.asarray(found["hits"], float)}

    def put(self, seed, start, found):
        self.found[f"{seed} {start}"] = found | {"hits": np.asarray(found["hits"], float).round(6).tolist()}
        write(self.path, strict.dumps({"key": self.key, "found": self.found}))

    def done(self):
        self.path.unlink(missing_ok=True)
