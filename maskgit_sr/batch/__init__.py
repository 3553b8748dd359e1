"""The Apache Beam pipeline, `maskgit-sr batch`; needs the extra ``beam``.

Workers unpickle objects of these modules by name, so their image must have this package installed.
"""
