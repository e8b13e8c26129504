// The validation suite of runtime-tools. Two of what it needs are pinned to what it was written against: with newer
// ones it does not build.
module conformance

go 1.24.0

require github.com/opencontainers/runtime-tools v0.9.0

require github.com/opencontainers/selinux v1.3.0 // indirect

require github.com/opencontainers/runtime-spec v1.0.2 // indirect

require (
	github.com/blang/semver v3.5.1+incompatible // indirect
	github.com/cpuguy83/go-md2man/v2 v2.0.7 // indirect
	github.com/hashicorp/errwrap v1.0.0 // indirect
	github.com/hashicorp/go-multierror v1.1.1 // indirect
	github.com/mndrix/tap-go v0.0.0-20171203230836-629fa407e90b // indirect
	github.com/mrunalp/fileutils v0.5.1 // indirect
	github.com/russross/blackfriday/v2 v2.1.0 // indirect
	github.com/satori/go.uuid v1.2.0 // indirect
	github.com/sirupsen/logrus v1.10.2 // indirect
	github.com/syndtr/gocapability v0.0.0-20200815063812-42c35b437635 // indirect
	github.com/urfave/cli v1.22.17 // indirect
	github.com/xeipuuv/gojsonschema v1.2.0 // indirect
	golang.org/x/sys v0.50.0 // indirect
	gopkg.in/yaml.v2 v2.4.0 // indirect
)

replace github.com/opencontainers/selinux => github.com/opencontainers/selinux v1.3.0

replace github.com/opencontainers/runtime-spec => github.com/opencontainers/runtime-spec v1.0.2
