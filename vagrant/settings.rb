# What a lab of virtual machines consists of: settings to values. No Vagrant in here and no side
# effects, so that plain Ruby can evaluate it.
#
# A setting comes from the environment, else from settings.yaml beside the Vagrantfile, else from
# DEFAULTS. A value that cannot be used raises BadSetting with a sentence.

require "ipaddr"
require "yaml"

module Lab
  class BadSetting < StandardError; end

  PROVIDERS = %w[libvirt virtualbox].freeze
  DEFAULTS = {
    "WORKERS" => 2,
    "CPUS" => 2,
    "MEMORY" => 2048,
    "BOX" => "debian/bookworm64",
    "NETWORK" => "192.168.56.0/24",
    "PROVIDER" => "",
  }.freeze

  # Networks that the machines have besides their own. VirtualBox gives every machine the same
  # address, 10.0.2.15, in the first; the second is vagrant-libvirt's; then pods and services, as
  # `barenode init` chooses them.
  TAKEN = {
    "VirtualBox's NAT" => "10.0.2.0/24",
    "libvirt's management network" => "192.168.121.0/24",
    "the pods' network" => "10.244.0.0/16",
    "the services' range" => "10.96.0.0/12",
  }.freeze

  FIRST = 10 # the master's place in the network; workers follow
  MOST_WORKERS = 100
  # MiB. Linking kube-apiserver takes more than 2 GiB.
  MEMORY_OF_BUILD = 6144

  # *memory* is in MiB.
  Machine = Struct.new(:name, :address, :memory, keyword_init: true)

  class Settings
    attr_reader :workers, :cpus, :memory, :box, :network, :provider

    def initialize(given)
      unknown = given.keys - DEFAULTS.keys
      unless unknown.empty?
        raise BadSetting, "no setting #{unknown.first}: #{DEFAULTS.keys.join(", ")}"
      end

      values = DEFAULTS.merge(given)
      @workers = Settings.number("WORKERS", values["WORKERS"], 0..MOST_WORKERS)
      @cpus = Settings.number("CPUS", values["CPUS"], 1..64)
      @memory = Settings.number("MEMORY", values["MEMORY"], 1024..1_048_576)
      @box = Settings.box(values["BOX"].to_s)
      @network = Settings.network(values["NETWORK"].to_s)
      @provider = Settings.provider(values["PROVIDER"].to_s)
    end

    def self.read(file, environment)
      given = file && File.exist?(file) ? YAML.safe_load(File.read(file)) || {} : {}
      raise BadSetting, "#{file}: give lines such as WORKERS: 3" unless given.is_a?(Hash)

      new(given.merge(environment.slice(*DEFAULTS.keys).reject { |_, value| value.empty? }))
    rescue Psych::Exception => e
      raise BadSetting, "#{file}: #{e.message}"
    end

    # *images*: whether Kubernetes' images are there, or the master has to build them.
    def machines(images:)
      first = @network.to_i + FIRST
      names = ["master"] + (1..@workers).map { |number| "node#{number}" }
      names.each_with_index.map do |name, index|
        memory = index.zero? && !images ? [@memory, MEMORY_OF_BUILD].max : @memory
        address = IPAddr.new(first + index, Socket::AF_INET).to_s
        Machine.new(name: name, address: address, memory: memory)
      end
    end

    def self.number(name, value, range)
      found = Integer(value.to_s, 10, exception: false)
      return found if found && range.cover?(found)

      raise BadSetting, "#{name}=#{value}: a number from #{range.first} to #{range.last} is needed"
    end

    def self.box(value)
      return value unless value.strip.empty?

      raise BadSetting, "BOX is empty: name a box, such as #{DEFAULTS["BOX"]}"
    end

    def self.provider(value)
      return value if value.empty? || PROVIDERS.include?(value)

      raise BadSetting, "PROVIDER=#{value}: #{PROVIDERS.join(" or ")}"
    end

    def self.network(value)
      found = value.match?(%r{\A[\d.]+/24\z}) ? IPAddr.new(value) : nil
      raise BadSetting, "NETWORK=#{value}: a network such as 192.168.56.0/24 is needed" unless found

      whose, other = TAKEN.find do |_, taken|
        range = IPAddr.new(taken)
        range.include?(found) || found.include?(range)
      end
      raise BadSetting, "NETWORK=#{value} lies in #{whose}, #{other}: take another" if whose

      found
    rescue IPAddr::Error => e
      raise BadSetting, "NETWORK=#{value}: #{e.message}"
    end
  end

  # What was built of this tree, in the folder *dist*: the package and, if there, images.
  class Built
    IMAGES = { "--hyperkube-image" => "hyperkube.tar", "--etcd-image" => "etcd.tar" }.freeze

    def initialize(dist)
      @dist = File.expand_path(dist)
    end

    def packages
      Dir.glob(File.join(@dist, "barenode_*.deb")).sort
    end

    # Raises BadSetting when there is no package, or more than one.
    def package
      found = packages
      return found.first if found.one?

      raise BadSetting, "no barenode_*.deb in #{@dist}: build it with 'make deb'" if found.empty?

      names = found.map { |path| File.basename(path) }.join(", ")
      raise BadSetting, "#{@dist} has #{names}: leave the one that is to be installed"
    end

    # Flag of `barenode init` to archive, for those that are there.
    def images
      IMAGES.transform_values { |name| File.join(@dist, "images", name) }
            .select { |_, path| File.file?(path) }
    end

    def images?
      images.key?("--hyperkube-image")
    end
  end

  # The join line on its way from the master to a worker: a file of the operator alone.
  module JoinLine
    COMMAND = "barenode token create --ttl 1h --print-join-command".freeze

    # *answer* is what COMMAND printed on the master.
    def self.check(answer)
      lines = answer.split("\n").map(&:strip).reject(&:empty?)
      return lines.first if lines.length == 1 && lines.first.match?(%r{\Abarenode join [\w.:/=+ -]+\z})

      raise BadSetting, "the master printed no join line; see 'netd status' and 'nodeagent status' there"
    end

    def self.write(path, text)
      File.open(path, File::WRONLY | File::CREAT, 0o600) do |file|
        file.chmod(0o600)
        file.truncate(0)
        file.write(text)
      end
    end
  end
end
