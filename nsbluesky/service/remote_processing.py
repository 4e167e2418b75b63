"""RemoteProcessing: what the control panel of a window steers, where the processing is a service."""

from __future__ import annotations

from typing import Any

from nsbluesky.service.access import Credentials
from nsbluesky.service.control import ask
from nsbluesky.settings import PipelineSettings

__all__ = ["RemoteProcessing"]

DONE = {
    "resume": "the service goes on",
    "pause": "the service rests; documents wait there",
    "abort": "the final passes of the runs that have ended are cut short",
    "clear": "finished runs are forgotten by viewers that come from now on",
}


class RemoteProcessing:
    """Asks a service; every method waits for its answer.

    Parameters
    ----------
    address : str
        Of the control socket.
    credentials : Credentials, optional
        By default those of this user on this machine.
    """

    def __init__(self, address: str, credentials: Credentials | None = None) -> None:
        self._address = address
        self._credentials = credentials

    def settings(self) -> PipelineSettings:
        """Return the settings of the next run.

        Raises
        ------
        ServiceAway, AccessError, ControlError
        """
        return self.configure({})

    def configure(self, changes: dict[str, Any]) -> PipelineSettings:
        """Change settings, by dotted names, and return all; those of `Settings.AT_ONCE` also of runs that go on.

        Raises
        ------
        ServiceAway, AccessError, ControlError
        """
        answer = ask(self._address, "configure", self._credentials, settings=changes)
        return PipelineSettings.from_dict(answer["settings"])

    def show_fit(self, seq_num: int | None) -> None:
        """Tell with each picture how this frame is modelled; None for the newest.

        Raises
        ------
        ServiceAway, AccessError, ControlError
        """
        ask(self._address, "fit", self._credentials, **({} if seq_num is None else {"frame": seq_num}))

    def do(self, action: str) -> str:
        """Do what a button says, and tell what was done.

        Raises
        ------
        ServiceAway, AccessError, ControlError
        """
        answer = ask(self._address, action, self._credentials)
        if action == "reset":
            count = len(answer["runs"])
            return "1 open run begins anew" if count == 1 else f"{count} open runs begin anew"
        return DONE[action]
