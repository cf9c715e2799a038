# Prints as JSON what Vagrant itself reads from a Vagrantfile: dump.rb FOLDER PROVIDER
require "json"
require "vagrant"

env = Vagrant::Environment.new(cwd: ARGV[0])
machines = env.machine_names.map do |name|
  machine = env.machine(name, ARGV[1].to_sym)
  provider = machine.provider_config
  size = if ARGV[1] == "libvirt"
           [provider.cpus, provider.memory]
         else
           %w[--cpus --memory].map do |flag|
             provider.customizations.filter_map { |_, words| words.last if words.include?(flag) }.last
           end
         end
  steps = machine.config.vm.provisioners.map do |step|
    told = step.config
    if step.type == :shell
      { name: step.name, root: told.privileged, script: told.path, inline: told.inline, args: told.args }
    else
      { name: step.name, source: told.source, destination: told.destination }
    end
  end
  {
    name: name,
    hostname: machine.config.vm.hostname,
    box: machine.config.vm.box,
    cpus: size[0].to_i,
    memory: size[1].to_i,
    private: machine.config.vm.networks.filter_map { |kind, told| told[:ip] if kind == :private_network },
    folders: machine.config.vm.synced_folders.values.reject { |folder| folder[:disabled] }.length,
    steps: steps,
  }
end
puts JSON.generate({ machines: machines, parallel: ENV.fetch("VAGRANT_NO_PARALLEL", "").empty? })
