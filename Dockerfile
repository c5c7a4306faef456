# The command `debeton` in an image, for CPUs and NVIDIA GPUs. docs/clusters.md shows how it is built and run.
#
#   docker build --tag debeton .
#   docker build --tag debeton --build-arg BASE=ubuntu:24.04 .    # or another Debian or Ubuntu
#
# scripts/setup.sh installs everything, from the same lock as in a checkout. Torch's packages bring CUDA's libraries, so
# the base image needs none, and one image serves both: a GPU only needs the machine's driver.
ARG BASE=debian:13-slim
FROM ${BASE}

ENV LANG=C.UTF-8 PYTHONUNBUFFERED=1 PATH=/opt/debeton/.venv/bin:$PATH
COPY . /opt/debeton
# In one layer: what is downloaded, and removed again, takes no room in the image.
RUN bash /opt/debeton/scripts/setup.sh \
    && debeton doctor \
    && rm -rf /opt/debeton/.uv /root/.cache /var/lib/apt/lists/*

# Betons and runs belong into the folder that is mounted here. Other accounts than root may write their caches to /tmp.
WORKDIR /work
ENV XDG_CACHE_HOME=/tmp/cache
ENTRYPOINT ["debeton"]
CMD ["--help"]
