"""Image files and arrays, on the host: NumPy, Pillow and OpenCV only, so that `data` may use it."""

from maskgit_sr.images.decode import MAX_PIXELS as MAX_PIXELS
from maskgit_sr.images.decode import from_bytes as from_bytes
from maskgit_sr.images.decode import from_pil as from_pil
from maskgit_sr.images.decode import read as read
from maskgit_sr.images.picture import WRITABLE as WRITABLE
from maskgit_sr.images.picture import check_kind as check_kind
from maskgit_sr.images.picture import check_target as check_target
from maskgit_sr.images.picture import from_array as from_array
from maskgit_sr.images.picture import from_confidence as from_confidence
from maskgit_sr.images.picture import resize as resize
from maskgit_sr.images.picture import to_array as to_array
from maskgit_sr.images.picture import to_bytes as to_bytes
from maskgit_sr.images.picture import to_pil as to_pil
from maskgit_sr.images.picture import write as write
from maskgit_sr.images.samples import Picture as Picture
