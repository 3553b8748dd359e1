"""Images in folders, before and after a run."""

from PIL import Image

BATCH = 4  # of the model of these tests


def stamps(folder):
    """Time and content of every file, hidden ones too."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
