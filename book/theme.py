"""Settings of the theme; what needs an address of the sources waits for one."""


def options(repository: str) -> dict:
    """Buttons for Colab, Binder and the source only where there is an address."""
    chosen = {
        "navbar_persistent": [],
        "use_download_button": True,
        "show_toc_level": 2,
    }
    if not repository:
        return chosen
    return chosen | {
        "repository_url": repository,
        "repository_branch": "main",
        "path_to_docs": "",
        "use_repository_button": True,
        "launch_buttons": {
            "colab_url": "https://colab.research.google.com",
            "binderhub_url": "https://mybinder.org",
            "notebook_interface": "jupyterlab",
        },
    }
