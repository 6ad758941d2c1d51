# ssss-zoo in a container. The GPU: docker build -t ssss-zoo . && docker run --gpus all --shm-size 8g -v "$PWD:/work" ssss-zoo run
# A CPU alone, a smaller image: docker build --build-arg BASE=cpu -t ssss-zoo:cpu .
ARG BASE=cuda

# torch from the package index brings the CUDA libraries with it; the driver is the host's.
FROM python:3.12-slim AS cuda
RUN pip install --no-cache-dir torch torchvision
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM python:3.12-slim AS cpu
RUN pip install --no-cache-dir torch torchvision --index-url https://download.pytorch.org/whl/cpu

FROM ${BASE} AS final
COPY . /src
RUN pip install --no-cache-dir "/src[onnx,polygons,video]" && rm -r /src
# Runs are written to /work, by a user who is not root: --user "$(id -u):$(id -g)" makes them yours.
RUN useradd --create-home ssss && mkdir /work && chown ssss /work
USER ssss
WORKDIR /work
ENV OMP_WAIT_POLICY=PASSIVE SSSS_DATA=/data
ENTRYPOINT ["ssss"]
CMD ["check-install"]
