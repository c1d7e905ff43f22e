"""Preferences: which backend, where its files are, and its installation."""

import os

import bpy
from bpy.props import BoolProperty, EnumProperty, StringProperty

from ..backend import environment
from . import backend_process
from .backend_process import Installation, Settings
from .client import is_loopback
from .wrapping import paragraph

EXTENSION = __package__.rpartition(".")[0]
LOG_LINES = 6

_HOME = "FIELDFORGE_HOME"


class Checks:
    """What Preferences show and only a look at the disk or the backend can tell; never looked up
    while drawing."""

    installed: environment.Status | None = None
    installation: Installation | None = None
    connection = ""
    connection_failed = False
    log: list[str] = []
    home_outside: str | None = None


def current() -> "FieldforgePreferences | None":
    """The extension's preferences, None while it is not enabled through Blender."""
    addon = bpy.context.preferences.addons.get(EXTENSION)
    return addon.preferences if addon else None


def current_settings() -> Settings:
    """What the threads may know of Preferences. Main thread."""
    chosen = current()
    if chosen is None:
        return Settings(online=bpy.app.online_access)
    return Settings(
        mode=chosen.mode,
        python=bpy.path.abspath(chosen.python) if chosen.python else "",
        url=chosen.url,
        token=chosen.token,
        online=bpy.app.online_access,
        device=chosen.device,
    )


def refresh() -> None:
    """Look again at what only the disk knows: small files, no process, no network."""
    Checks.installed = environment.status("backend")
    Checks.log = backend_process.last_lines(backend_process.log_file(), LOG_LINES)


def backend_missing(settings: Settings) -> tuple[str, str] | None:
    """(reason, advice) when Generate has no backend to go to; reads no disk."""
    if settings.mode == "SERVER":
        if not settings.url.strip():
            return "No server is set", "Enter its address in Preferences."
        if not settings.online and not is_loopback(settings.url):
            return (
                "Blender is set to stay offline",
                "Turn on Allow Online Access in Preferences > System, or use a local backend.",
            )
    elif settings.mode == "PYTHON":
        if not settings.python:
            return "No Python is set for the backend", "Choose one in Preferences."
    else:
        if installing():
            return "The backend is being installed", "Wait until it is done."
        if Checks.installed is None or Checks.installed.python is None:
            return "The backend is not installed yet", "Click Install first."
    return None


def _apply_folder(self, context) -> None:
    from . import session

    _set_home(bpy.path.abspath(self.data_folder) if self.data_folder else Checks.home_outside)
    session.open_log()
    _reconnect(self, context)


def _set_home(folder: str | None) -> None:
    """The data folder reaches `environment.home` through its variable, as on the command line."""
    if folder:
        os.environ[_HOME] = folder
    else:
        os.environ.pop(_HOME, None)


def _reconnect(self, context) -> None:
    from . import session

    Checks.connection = ""
    refresh()
    session.jobs().disconnect()


class FieldforgePreferences(bpy.types.AddonPreferences):
    bl_idname = EXTENSION

    mode: EnumProperty(
        name="Backend",
        items=[
            ("INSTALLED", "Installed Here", "Fieldforge installs its own Python packages"),
            ("PYTHON", "Existing Python", "A Python that has the backend's packages already"),
            ("SERVER", "Running Server", "A backend that runs by itself, here or elsewhere"),
        ],
        update=_reconnect,
    )
    python: StringProperty(
        name="Python",
        description="The program itself, such as /home/me/venv/bin/python",
        subtype="FILE_PATH",
        update=_reconnect,
    )
    url: StringProperty(
        name="Address",
        description="Such as http://127.0.0.1:8765 or https://forge.example.org",
        update=_reconnect,
    )
    token: StringProperty(
        name="Token",
        description="The token that the server was started with",
        subtype="PASSWORD",
        update=_reconnect,
    )
    device: EnumProperty(
        name="Device",
        items=[
            ("auto", "Automatic", "The graphics card if it can be used, else the processor"),
            ("cpu", "Processor", "Always the processor"),
            ("cuda", "CUDA", "Always the NVIDIA graphics card"),
        ],
        update=_reconnect,
    )
    start: EnumProperty(
        name="Start",
        description="When the local backend is started",
        items=[
            ("FIRST_USE", "On First Use", "When something is generated for the first time"),
            ("WITH_BLENDER", "With Blender", "As soon as Blender starts"),
        ],
    )
    data_folder: StringProperty(
        name="Data Folder",
        description="Where the backend, its results and logs are kept; empty for the usual place",
        subtype="DIR_PATH",
        update=_apply_folder,
    )
    licenses: StringProperty(
        name="Accepted Licences", description="Of models that are downloaded", options={"HIDDEN"}
    )
    show_models: BoolProperty(
        name="Show Models", description="Show the models and what can be downloaded"
    )
    show_log: BoolProperty(name="Show Log", description="Show the last lines of the log")

    def draw(self, context) -> None:
        layout = self.layout
        layout.use_property_split = True
        layout.use_property_decorate = False
        layout.row().prop(self, "mode", expand=True)
        {
            "INSTALLED": self._draw_installed,
            "PYTHON": self._draw_python,
            "SERVER": self._draw_server,
        }[self.mode](layout, context)
        if self.mode != "SERVER":
            layout.row().prop(self, "start", expand=True)
            layout.prop(self, "device")
        layout.prop(self, "data_folder")
        if not self.data_folder:
            paragraph(layout, [f"Files are kept in {environment.home()}"], context, icon="BLANK1")
        self._draw_test(layout, context)
        self._draw_models(layout, context)
        self._draw_log(layout, context)

    def _draw_installed(self, layout, context) -> None:
        box = layout.box()
        installation = Checks.installation
        if installing():
            draw_installation(box, context)
            return
        found = Checks.installed
        state = found.state if found else "missing"
        words, icon = {
            "ready": ("The backend is installed.", "CHECKMARK"),
            "external": ("FIELDFORGE_PYTHON is set; its Python is used.", "CHECKMARK"),
            "missing": ("The backend is not installed yet (1 GB, on Linux several).", "INFO"),
            "incomplete": ("The installation was interrupted. Repair it.", "ERROR"),
        }[state]
        box.label(text=words, icon=icon)
        row = box.row(align=True)
        row.operator("fieldforge.install", icon="IMPORT")
        row.operator("fieldforge.repair", icon="FILE_REFRESH")
        row.operator("fieldforge.remove", icon="TRASH")
        draw_offline(box, context)
        if installation is not None and installation.error is not None:
            paragraph(box, [str(installation.error)], context, icon="ERROR")

    def _draw_python(self, layout, context) -> None:
        layout.prop(self, "python")

    def _draw_server(self, layout, context) -> None:
        layout.prop(self, "url")
        layout.prop(self, "token")
        if not self.url or is_loopback(self.url):
            return
        if not bpy.app.online_access:
            words = "Blender is set to stay offline, so this server is not contacted."
            paragraph(layout, [words], context, icon="INTERNET_OFFLINE")
        if self.url.startswith("http:"):
            words = "Without https the token and your models travel unencrypted."
            paragraph(layout, [words], context, icon="ERROR")

    def _draw_test(self, layout, context) -> None:
        layout.separator()
        layout.operator("fieldforge.test_connection", icon="LINKED")
        if Checks.connection:
            icon = "ERROR" if Checks.connection_failed else "CHECKMARK"
            paragraph(layout, [Checks.connection], context, icon=icon)

    def _draw_models(self, layout, context) -> None:
        from .models import draw_models

        layout.separator()
        row = layout.row()
        row.use_property_split = False
        row.alignment = "LEFT"
        icon = "TRIA_DOWN" if self.show_models else "TRIA_RIGHT"
        row.prop(self, "show_models", text="Models", icon=icon, emboss=False)
        if self.show_models:
            draw_models(layout.box(), context)

    def _draw_log(self, layout, context) -> None:
        row = layout.row()
        row.use_property_split = False
        row.alignment = "LEFT"
        row.prop(
            self,
            "show_log",
            text="Log",
            icon="TRIA_DOWN" if self.show_log else "TRIA_RIGHT",
            emboss=False,
        )
        row.operator("fieldforge.open_logs", icon="FILE_FOLDER")
        if self.show_log:
            box = layout.box().column(align=True)
            paragraph(box, [str(backend_process.log_file()), *Checks.log], context)


OFFLINE = "Blender is set to stay offline. Allow Online Access (Preferences > System) to install"


def installing() -> bool:
    return Checks.installation is not None and not Checks.installation.done


def draw_installation(layout, context) -> None:
    """The progress of the installation that is under way."""
    installation = Checks.installation
    row = layout.row(align=True)
    row.progress(factor=installation.fraction, text=f"{installation.fraction:.0%}")
    row.operator("fieldforge.cancel_install", text="", icon="X")
    paragraph(layout, [f"{installation.title}: {installation.stage}"], context)
    paragraph(layout, list(installation.lines)[-1:], context)


def draw_offline(layout, context) -> None:
    """Nothing, or that Blender stays offline, with the switch that allows it to go online."""
    if bpy.app.online_access:
        return
    if bpy.app.online_access_override:
        words = "Blender was started in offline mode, so nothing can be installed."
        paragraph(layout, [words], context, icon="INTERNET_OFFLINE")
        return
    paragraph(layout, ["Blender is set to stay offline."], context, icon="INTERNET_OFFLINE")
    system = context.preferences.system
    layout.prop(system, "use_online_access", text="Allow Online Access")


def register() -> None:
    Checks.home_outside = os.environ.get(_HOME)
    chosen = current()
    if chosen is not None and chosen.data_folder:
        _set_home(bpy.path.abspath(chosen.data_folder))
    refresh()


def unregister() -> None:
    if Checks.installation is not None:
        Checks.installation.cancel()
    Checks.installation, Checks.connection = None, ""
    _set_home(Checks.home_outside)
