module stockbridge/tools

go 1.26.8

tool google.golang.org/protobuf/cmd/protoc-gen-go

require (
	github.com/bufbuild/protovalidate v1.2.2 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)
