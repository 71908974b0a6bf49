"""The sink `spreadsheet`: a row of a CSV file for each event. A connector of your own is a file like this one."""

import csv
from collections.abc import Mapping

import msgspec

from runtime import Event, Reject, Sink, hookimpl


class Spreadsheet(Sink):
    """Appends the id and the data of events as rows; the id tells the rows of an event that was written twice."""

    class Options(msgspec.Struct, forbid_unknown_fields=True):
        """The file, and the fields of the data that become its columns."""

        path: str
        columns: list[str]

    async def open(self) -> None:
        """Open the file, relative to the folder of runtime.toml; a new one gets its heading."""
        path = self.folder / self.options.path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", newline="", encoding="utf-8")
        self._rows = csv.writer(self._file)
        if not self._file.tell():
            self._rows.writerow(["id", *self.options.columns])

    async def write(self, events: list[Event]) -> None:
        """Write the rows; when this raises, the events are tried again, but not after a `Reject`."""
        for event in events:
            if not isinstance(event.data, Mapping):
                raise Reject(f"expected data with the fields {', '.join(self.options.columns)}, found none")
            self._rows.writerow([event.id, *(event.data.get(column) for column in self.options.columns)])
        self._file.flush()

    async def close(self) -> None:
        """Close the file."""
        self._file.close()


@hookimpl
def register_sinks() -> Mapping[str, type[Sink]]:
    """Offer the sink, for `plugin = "spreadsheet"`."""
    return {"spreadsheet": Spreadsheet}
