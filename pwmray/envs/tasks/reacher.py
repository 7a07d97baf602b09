"""Reacher with an arm of three links in place of two, and a large or a small target."""

from xml.etree import ElementTree

from dm_control.rl import control
from dm_control.suite import reacher

_LARGE_TARGET = 0.05  # m, radius
_SMALL_TARGET = 0.015  # m
_TIME_LIMIT = 20.0  # seconds: 1000 control steps

# What takes the place of the arm and of the motors in dm_control's model; the rest stays.
_ARM = """
<body name="arm0" pos="0 0 .01">
  <geom name="arm0" type="capsule" fromto="0 0 0 0.09 0 0" size=".01" material="self"/>
  <joint name="shoulder0"/>
  <body name="arm1" pos=".09 0 0">
    <geom name="arm1" type="capsule" fromto="0 0 0 0.09 0 0" size=".01" material="self"/>
    <joint name="shoulder1" limited="true" range="-80 80"/>
    <body name="hand" pos=".09 0 0">
      <geom name="hand" type="capsule" fromto="0 0 0 0.1 0 0" size=".01" material="self"/>
      <joint name="wrist" limited="true" range="-80 80"/>
      <body name="finger" pos=".09 0 0">
        <camera name="hand" pos="0 0 .2" mode="track"/>
        <geom name="finger" type="sphere" size=".01" material="effector"/>
      </body>
    </body>
  </body>
</body>
"""
_MOTORS = """
<actuator>
  <motor name="shoulder0" joint="shoulder0"/>
  <motor name="shoulder1" joint="shoulder1"/>
  <motor name="wrist" joint="wrist"/>
</actuator>
"""


def three_easy() -> control.Environment:
    """Build reacher-three-easy."""
    return _build(_LARGE_TARGET)


def three_hard() -> control.Environment:
    """Build reacher-three-hard."""
    return _build(_SMALL_TARGET)


def _build(target_size: float) -> control.Environment:
    xml, assets = reacher.get_model_and_assets()
    physics = reacher.Physics.from_xml_string(_with_three_links(xml), assets)
    task = reacher.Reacher(target_size=target_size)
    return control.Environment(physics, task, time_limit=_TIME_LIMIT)


def _with_three_links(xml: str | bytes) -> str:
    """Return dm_control's model with the longer arm."""
    model = ElementTree.fromstring(xml)
    _replace(model, "worldbody", "body", _ARM)
    _replace(model, ".", "actuator", _MOTORS)
    return ElementTree.tostring(model, encoding="unicode")


def _replace(model: ElementTree.Element, parent_path: str, tag: str, replacement: str) -> None:
    """Replace the one child with this tag."""
    parent = model.find(parent_path)
    assert parent is not None, parent_path
    (old,) = parent.findall(tag)
    parent[list(parent).index(old)] = ElementTree.fromstring(replacement)
