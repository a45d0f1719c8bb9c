"""Where on the network: domain, interface, and the settings that cyclonedds is opened with."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from xml.sax.saxutils import quoteattr

LOOPBACK = "127.0.0.1"
LARGEST_DOMAIN = 232
# Without it nothing is exchanged with endpoints of Fast DDS 3 that announce XTypes type objects; 1.15 is their vendor.
COMPATIBILITY = "<Compatibility><IgnoreTypeInformation>1.15</IgnoreTypeInformation></Compatibility>"
# A picture is larger than what a socket holds by default. The system may grant less; with `min` that were an error.
PICTURES = (
    "<General><MaxMessageSize>65500B</MaxMessageSize><FragmentSize>60000B</FragmentSize></General>"
    '<Internal><SocketReceiveBufferSize max="4MB"/></Internal>'
)

# Without multicast a robot of another vendor that starts later hears of us only when we next announce ourselves (30 s).
OFTEN = "<Discovery><SPDPInterval>1s</SPDPInterval></Discovery>"


def domain_of(chosen: int | None, environment: Mapping[str, str] = os.environ) -> int:
    """Return the domain: what was chosen, else ROS_DOMAIN_ID, else 0.

    Raises:
        ValueError: not from 0 to 232.
    """
    text = environment.get("ROS_DOMAIN_ID", "").strip() or "0"
    source = "domain" if chosen is not None else "ROS_DOMAIN_ID"
    value = chosen if chosen is not None else int(text) if text.isascii() and text.isdigit() else -1
    if not 0 <= value <= LARGEST_DOMAIN:
        raise ValueError(
            f"{source} must be a whole number from 0 to {LARGEST_DOMAIN}, got {text if chosen is None else chosen}; "
            "it is the number that `echo $ROS_DOMAIN_ID` prints on the robot, 0 if it prints nothing"
        )
    return value


def interface_of(chosen: str | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the interface: what was chosen, else this machine only if ROS_LOCALHOST_ONLY is 1, else None (any)."""
    if chosen is not None:
        return chosen
    return LOOPBACK if environment.get("ROS_LOCALHOST_ONLY", "").strip() == "1" else None


def settings(interface: str | None, environment: Mapping[str, str] = os.environ) -> str:
    """Return cyclonedds' settings: what is needed here, then CYCLONEDDS_URI, then the interface.

    Args:
        interface: a name such as "eth0", an address, "lo" for this machine only, or None for any.
        environment: where CYCLONEDDS_URI is looked up; it overrides what is set here, but for the interface.
    """
    parts = [COMPATIBILITY + PICTURES, environment.get("CYCLONEDDS_URI", "").strip()]
    if interface is not None:
        parts.append(_interface(interface))
    return ",".join(part for part in parts if part)


def _interface(name: str) -> str:
    local = name in ("lo", "localhost", LOOPBACK)
    key, value = ("address", LOOPBACK) if local else ("address" if _is_address(name) else "name", name)
    multicast = "<AllowMulticast>false</AllowMulticast>" if local else ""
    general = f"<General><Interfaces><NetworkInterface {key}={quoteattr(value)}/></Interfaces>{multicast}</General>"
    return general + (OFTEN if local else "")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
