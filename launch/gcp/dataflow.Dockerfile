# Workers of launch.beam_upscale on Dataflow, Flink or Spark: launch/Dockerfile's image with Beam.
#
#   docker build -f launch/Dockerfile -t maskgit-sr:cpu .
#   docker build -f launch/gcp/dataflow.Dockerfile --build-arg BASE=maskgit-sr:cpu -t IMAGE .
#
# Beam's version and Python's are those of the machine that submits the job.
ARG BASE=maskgit-sr:cpu
FROM apache/beam_python3.12_sdk:2.77.0 AS sdk

FROM ${BASE}
USER root
RUN pip install --no-cache-dir 'apache-beam[gcp]==2.77.0'
COPY --from=sdk /opt/apache/beam /opt/apache/beam
# workers unpickle maskgit_sr.batch by name: the base image has the package installed
ENTRYPOINT ["/opt/apache/beam/boot"]
