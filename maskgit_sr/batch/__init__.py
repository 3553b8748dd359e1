"""The Apache Beam pipeline, `python -m launch.beam_upscale`; needs the extra ``beam``.

Workers unpickle objects of these modules by name, so their image must have this package installed.
"""
