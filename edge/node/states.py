# SPDX-License-Identifier: Apache-2.0
"""The state machine of an association, once that has ended."""

from __future__ import annotations

from typing import Any

_IDLE, _WAITS_FOR_CLOSE, _WAITED_ENOUGH = "Sta1", "Sta13", "Evt18"
"""PS3.8 section 9.2."""


def end_quietly(association: Any) -> None:
    """Let an association that has ended take what its other thread asks of it still, and only close the connection.

    pynetdicom accepts, answers and aborts in one thread and reads the connection in another. What the first one asks
    for when the second has just ended the association is an error to its state machine, and would end the second thread
    before it closes the connection.
    """
    from pynetdicom.fsm import TRANSITION_TABLE

    machine = association.dul.state_machine
    act = machine.do_action

    def unless_ended(event: str) -> None:
        state = machine.current_state
        if state not in (_IDLE, _WAITS_FOR_CLOSE) or (event, state) in TRANSITION_TABLE:
            act(event)
        elif state == _WAITS_FOR_CLOSE:
            act(_WAITED_ENOUGH)

    machine.do_action = unless_ended
