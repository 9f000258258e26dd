# editspec with its studio and language models: docker build -t editspec .
#
# In the folder of your specs:
#   docker run --rm -v "$PWD:/work" editspec build spec.yaml -o out
#   docker run --rm -v "$PWD:/work" -p 8642:8642 editspec studio spec.yaml --host 0.0.0.0 --port 8642
FROM python:3.12-slim

# What the torch that is pinned is found by: a build without CUDA is a tenth as large, where pip is told of one.
ARG PIP_EXTRA_INDEX_URL
COPY . /source
RUN pip install --no-cache-dir -c /source/constraints.txt "/source[studio,text]" && rm -r /source

# What was solved is kept by content in /cache: mount a volume there to keep it from run to run.
RUN useradd --create-home editspec && mkdir /cache /work && chown editspec /cache /work
USER editspec
ENV EDITSPEC_CACHE=/cache
WORKDIR /work
ENTRYPOINT ["editspec"]
