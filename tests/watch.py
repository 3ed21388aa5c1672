"""Who watches an engine in the tests: it remembers what it is told."""


class Watch:
    def __init__(self) -> None:
        self.steps, self.done = {}, []

    def advanced(self, spec, step):
        self.steps[spec.id] = step

    def finished(self, spec, result):
        self.done.append(spec.id)
