"""Commands that wire library, data and configs together."""

from maskgit_sr.errors import name_the_extra

name_the_extra()
